"""The sizes of a network, and the resulting names and shapes of its tensors."""

from dataclasses import dataclass

from charrnn.network.cells import Shape, describe_layers, layer_shapes


@dataclass(frozen=True)
class Config:
    """The sizes of a network: with its weights, all that is needed to rebuild it."""

    vocabulary_size: int  # V, number of distinct characters
    cell: str = "lstm"  # a name in CELLS
    num_layers: int = 2  # stacked recurrent layers; 0: only the softmax layer
    hidden_size: int = 128  # H, units per layer
    embedding_size: int = 32  # E; 0: one-hot vectors instead of an embedding
    residual: bool = True  # each layer but the first adds its input to its output (He et al. 2016)

    def shapes(self) -> dict[str, Shape]:
        """The names and shapes of all tensors."""
        V, E = self.vocabulary_size, self.embedding_size
        embedding: dict[str, Shape] = {"embedding.weight": (V, E)} if E else {}
        layers = layer_shapes(self.cell, num_layers=self.num_layers, inputs=E or V, hidden_size=self.hidden_size)
        outputs = self.hidden_size if self.num_layers else E or V
        return embedding | layers | {"softmax.weight": (V, outputs), "softmax.bias": (V,)}

    def describe(self) -> str:
        """Describe the layers in words."""
        return describe_layers(self.cell, num_layers=self.num_layers, hidden_size=self.hidden_size)

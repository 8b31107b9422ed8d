"""The sizes of a network, and the name and shape of every tensor that they give.

Letters: V vocabulary, H hidden size, E embedding size.
"""

from dataclasses import dataclass

from charrnn.network.cells import Shape, describe_layers, layer_shapes


@dataclass(frozen=True)
class Config:
    """Everything that is needed to rebuild a network around its weights."""

    vocabulary_size: int  # V, the number of distinct characters
    cell: str = "lstm"  # a name in CELLS
    num_layers: int = 2  # stacked recurrent layers; 0 leaves the softmax layer alone
    hidden_size: int = 128  # H, units of each layer
    embedding_size: int = 32  # E, learned numbers per character; 0 feeds one-hot vectors
    residual: bool = True  # each layer but the first adds to what it reads, instead of replacing it

    def shapes(self) -> dict[str, Shape]:
        """The name and shape of every tensor of the network."""
        V, E = self.vocabulary_size, self.embedding_size
        embedding: dict[str, Shape] = {"embedding.weight": (V, E)} if E else {}
        layers = layer_shapes(self.cell, num_layers=self.num_layers, inputs=E or V, hidden_size=self.hidden_size)
        outputs = self.hidden_size if self.num_layers else E or V
        return embedding | layers | {"softmax.weight": (V, outputs), "softmax.bias": (V,)}

    def describe(self) -> str:
        """The layers, for people."""
        return describe_layers(self.cell, num_layers=self.num_layers, hidden_size=self.hidden_size)

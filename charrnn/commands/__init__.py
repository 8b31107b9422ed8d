"""The commands of `charrnn`: each parses, calls and prints. Their heavy imports stand inside them, so that help is quick."""

"""WHERE commands run: a supervised command on a node, however the node is reached."""

"""Send: requests go out when they are due. The hot path, together with ``wire``."""

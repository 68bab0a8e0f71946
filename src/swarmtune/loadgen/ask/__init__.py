"""Ask: which requests a run sends, and where to: data sets, sessions with their credits, the spec, targets."""

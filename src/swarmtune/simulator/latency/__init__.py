"""How long one step of an engine takes: physics times a residual, learned from measured steps, with an interval."""

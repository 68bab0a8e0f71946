"""WHAT a service runs on: one reader of accelerators, host and exporters, in a process of its own."""

"""What is read beside a run: devices and server metrics, on its time axis."""

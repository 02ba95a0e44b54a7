"""What this machine is, and devices that measure."""

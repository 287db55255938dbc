"""What reaches a node: checked, and read into settings."""

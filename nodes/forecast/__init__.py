"""What radial attention would do to a video, before it is made."""

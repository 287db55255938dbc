"""What one sampler run did: recorded, timed, and told in words."""

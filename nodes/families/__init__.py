"""All that is known of the model families."""

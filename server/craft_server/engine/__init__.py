"""Work on devices: the black box's port, the scheduler, image features and their cache."""

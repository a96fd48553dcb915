"""The demo's models: real, tiny, trained on the spot. See `family.train_family`."""

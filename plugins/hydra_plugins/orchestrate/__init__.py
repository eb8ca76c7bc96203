"""Our Hydra launcher and sweeper."""

"""F-Net, winner-take-all autoencoder, losses."""

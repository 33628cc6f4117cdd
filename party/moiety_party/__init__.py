"""A computing party: holds shares of models, keeps randomness prepared, runs plans with its peer."""

"""bob: answers the leader."""

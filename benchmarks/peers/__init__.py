"""The same networks through other engines of secure computation, measured in turn with moiety's on one machine."""

"""The models that the package ships."""

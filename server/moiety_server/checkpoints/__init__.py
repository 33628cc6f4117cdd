"""Models as others save them: folders of Hugging Face's form, and state dicts of torchvision's."""

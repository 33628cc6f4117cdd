"""Cryptography from well-kept libraries, in the forms that the messages need. No sockets, no files, no clock."""

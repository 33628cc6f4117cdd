"""What released versions wrote, kept as they wrote it: `python -m tests.compat` adds this version's."""

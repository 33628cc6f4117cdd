"""All five roles on one machine, as five processes: `moiety up`, `moiety demo`."""

"""What travels: inputs to a machine, outputs from there, with bounded memory."""

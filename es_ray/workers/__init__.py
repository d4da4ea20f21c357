"""Workers: processes with one engine each, and the pools that the driver hands work to."""

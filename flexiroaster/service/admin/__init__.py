"""Running an installation: `audit` log, access `tokens`, `metrics`, database `maintenance`, process `logs`."""

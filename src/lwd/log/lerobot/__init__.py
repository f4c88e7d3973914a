"""LeRobot data sets: read those of format 2.0, 2.1 and 3.0 as episodes, write episodes as 3.0. Needs `lwd[lerobot]`."""

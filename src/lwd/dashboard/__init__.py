"""The page that shows a running fleet: `gather` makes one JSON value of what is known, `server` hands it out. Read-only."""

"""Programs for the people who work on this repository; nothing in src imports them."""

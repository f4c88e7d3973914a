"""The evidence: which runs there are, running them, and the tables and figures made from what they leave."""

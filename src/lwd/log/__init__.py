"""The log: episodes as objects, a catalogue of them, a bus that announces them, manifests that readers follow."""

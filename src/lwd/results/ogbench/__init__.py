"""The third benchmark: OGBench's single tasks, offline to online, with QAM configured as its authors' released code.

`python -m lwd.results.ogbench run --task scene-task1 --seed 0` runs one, and goes on where it was cut;
`python -m lwd.results.ogbench table` writes docs/reference/ogbench.md from the committed run files.
"""

"""This project and TRL on identical work, in turn, each run in a process of its own; see README.md beside this file.

Commands: `ppo`, `reward`, `sft`, and `every` (all of them). The rest, in the order of a run:

environment   a virtual environment for the peer
starts        the SFT and reward artefacts that both sides start from
work          rows to token ids and batches, the same for both sides
rankings      K-wise rankings, and the pairs that a pairwise trainer makes of them
meter         seconds, tokens, losses and peak memory of a run; both sides use it
ours_*        this project's side of a stage, through its public classes
trl_*         the peer's side, run with the peer's interpreter
turns         A B A B
floor, flops  what the machine can do, and how much of it was used
agreement     whether both sides computed the same numbers
ratios        medians and spreads
report        JSON and Markdown
"""

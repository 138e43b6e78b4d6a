"""How far a reward model can be trusted: where it is wrong, whose taste it learnt, and what it never saw.

Reading order: `pairs` (rankings and scores as one table), `clustered` (shares with errors over prompts), then the
sections, each a pure function of the table: `slices`, `labelers`, `length`, `calibration`, `distribution`,
`overoptimisation`; `findings` turns them into sentences, `report` puts all together, `markdown` writes it for people,
`inputs` reads files and scores responses, `command` is the command line.
"""

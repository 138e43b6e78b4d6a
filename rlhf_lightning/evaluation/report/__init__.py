"""One report on an evaluation: from JSON on disk to a page, Markdown and TensorBoard.

`inputs` finds results, generations, runs and data cards, any of which may be missing; `preference`, `tax`, `trust`,
`evidence` and `learning` make sections of them; a section is a list of `blocks`, which `page`, `markdown` and `command`
each show in their way. Charts are lists of marks (`drawing`) that become SVG or pixels.
"""

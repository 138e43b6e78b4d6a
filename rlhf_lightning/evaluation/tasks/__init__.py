"""Task evaluations: the alignment tax and harms (Ouyang et al. 2022, §4.2, App. D), for any model.

A `Task` reads rows of a public data set, asks a `LanguageModel`, and says what came of each row; `run_task` keeps that
as JSON lines, goes on where it was cut off, and sums up with intervals. In reading order:

    rows        files to checked rows, whichever of the known field names they use
    task        what a task is, and its metrics
    resampling  sums over rows to a value and its interval
    runner      running, keeping (outcome_file), resuming
    shots       examples in front of a question

    perplexity  multiple_choice  reading  writing              what a model may have lost: the alignment tax
    truthfulness  toxicity  bias  refusals                      harms
    lm_eval_bridge                                             everything else, through lm-eval
    section     both as parts of `python -m rlhf_lightning evaluate`
"""

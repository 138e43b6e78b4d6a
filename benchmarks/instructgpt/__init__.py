"""The paper's claims on SmolLM2-135M, one resumable command: `python -m benchmarks.instructgpt --out DIR`.

    scale -> matrix -> queue -> job (fit, then evaluations) -> claims -> summary, plots

`matrix` says which runs there are and what each waits for; `queue` keeps so many of them going; `job` is what a process
does for one of them; `claims` compares the records that are there with what the paper says.
"""

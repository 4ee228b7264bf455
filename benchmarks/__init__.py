"""What Metergate costs beside a bare aiohttp pass-through, measured on one machine in one run.

    __main__       the command line: `python -m benchmarks [--quick|--full]`, `python -m benchmarks profile`
    suite          the phases: who is measured against whom, in which order, for how long
    load           the load generator: closed loop, fixed rate, streams; checks every answer
    stage          everything that a run needs: servers, accounts and keys, the processes, their clocks
    seed           accounts, keys and credit, written in bulk
    upstream       a provider that costs next to nothing: a process of its own
    bare           the pass-through to compare with: a process of its own
    wire           the requests and answers that all of them know
    machine        cores, CPU clocks of other processes, what machine this is
    figures        medians, percentiles, ratios
    report         the table, latest.json, latest.md
    profiling      where the CPU goes, by function

Linux only: it pins processes to cores and reads their CPU clocks. docs/performance.md says what the figures mean.
"""

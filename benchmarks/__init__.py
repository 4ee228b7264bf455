"""What Metergate costs beside a bare aiohttp pass-through, measured on one machine in one run.

    __main__       the command line: `python -m benchmarks [--quick|--full]`, `... profile`,
                   `... instructions`, `... attribute`, `... growth`
    modes          how much a run measures: phases, rounds, durations, customers
    suite          the phases: who is measured against whom, in which order
    turns          one subject's turn of each kind
    subjects       what is measured, and what is found
    goals          the figures that Metergate is held to, each with its bar and its aim
    report         the tables, latest.json, latest.md
    load           the load generator: closed loop, fixed rate, streams
    connection     one of its connections, which checks every answer
    stage          everything that a run needs: servers, installations, processes, their clocks
    installation   one Metergate: its stores, its configuration, its customers
    process        processes pinned to a core that end with us
    seed           accounts, keys and credit, written in bulk; what the ledger holds at the end
    upstream       a provider that costs next to nothing: a process of its own
    bare           the pass-through to compare with: a process of its own
    peers          nginx, LiteLLM, Portkey
    wire           the requests and answers that all of them know
    apis           streams of the other APIs, as their providers write them
    ledger_rate    debits a second over one connection
    service_rate   what a worker takes from services
    collect        what collection from exporters takes: `... collect`
    console        pages in a large installation, and the proxy beside them: `... console`
    answers        reads of the API in that installation
    looks          how long one page or one read takes, and whose CPU
    crowd          that installation: accounts, keys, a ledger of ten million events, written by SQL
    capacity       what a load needs, in cores and disk, from the last figures: `... capacity`
    recovery       what a backup and a recovery of it take and lose: `... recovery`
    growth         how cost grows, with grow_holds, grow_ledger, grow_prompts on metering's engine, and reads
    machine        cores, CPU clocks of other processes, what machine this is
    figures        medians, percentiles, ratios
    tables         Markdown
    profiling      where the CPU goes, by function; profiled_worker  the worker that it looks at
    instructions   what each kind of request costs in instructions; instructed  a process in which they are counted
    attribute      whose instructions they are, by Python function; stubs.c  what shows callgrind which one works
    commands       how long a command takes
    hostile        what clients that mean harm cost others

Linux only: it pins processes to cores and reads their CPU clocks. docs/performance.md says what the figures mean.
"""

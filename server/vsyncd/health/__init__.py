"""Health of this process and its dependencies: the treasury Health service, grpc.health.v1, and the checks behind them.

DependencyRegistry([PostgresChecker(...), ...], timeout=..., max_age=...)   checks every dependency on request
HealthMonitor(registry, serving, ...)                                       checks in rounds and updates `serving`
HealthService(registry, reports)                                            serves vsync.health.v1
ServingStatus()                                                             serves grpc.health.v1
"""

"""How this process and what it depends on are: the treasury Health service, grpc.health.v1, and what checks.

board = Board([PostgresChecker(...), ...], timeout=..., max_age=...)    every dependency, checked when asked
monitor = HealthMonitor(board, serving, ...)                            checks without being asked, drives `serving`
HealthService(board, liveness)                                          vsync.health.v1
ServingStatus()                                                         grpc.health.v1
"""

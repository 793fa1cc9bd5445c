"""Speed against peers: `make bench` (`python -m benchmarks`) prints one table. The other scripts here stand alone."""

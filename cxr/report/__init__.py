"""From the folders of evaluated runs to a paper's tables and one HTML page. Reads files, never models."""

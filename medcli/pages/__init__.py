"""HTML pages that stand alone: charts as inline SVG, templates that escape what they are given. No scripts at all."""

// Percentiles.

/** The value below which a share `p` of the sorted values lies (nearest rank); null of nothing. */
export function quantile(sorted, p) {
  if (sorted.length === 0) return null;
  return sorted[Math.min(Math.max(Math.ceil(p * sorted.length) - 1, 0), sorted.length - 1)];
}

/** Ascending, without those that are not there. */
export function sortedNumbers(values) {
  return Float64Array.from(values.filter((value) => value !== null && value !== undefined)).sort();
}

export const PERCENTILES = [["p50", 0.5], ["p95", 0.95], ["p99", 0.99]];

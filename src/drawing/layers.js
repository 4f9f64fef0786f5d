// Exit layers on a canvas: their colours, which are those of layers.css, their axis, and the band of a stream's chunks. The live page and
// the reports of `bellis run` and `bellis bench` contain this file.
const layers = {
  ramp: [],
  // Reads the colours again, after a change between light and dark mode.
  read() {
    const style = getComputedStyle(document.documentElement);
    const stops = [0, 1, 2, 3, 4].map(i => style.getPropertyValue(`--layer-${i}`).trim()).map(hex => [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)));
    layers.ramp = Array.from({ length: 65 }, (_, i) => {
      const x = i / 64 * (stops.length - 1), k = Math.min(Math.floor(x), stops.length - 2);
      return `rgb(${stops[k].map((low, c) => Math.round(low + (stops[k + 1][c] - low) * (x - k))).join(" ")})`;
    });
  },
  // The colour of a share of the layers, 0 to 1.
  shade: share => layers.ramp[Math.round(64 * Math.min(1, Math.max(0, share)))],
  // Numbers and lines of layers 0 to `count`.
  axis(brush, { left, right, top, height, count, ink, line }) {
    brush.textAlign = "right"; brush.textBaseline = "middle"; brush.font = "11px system-ui, sans-serif";
    const step = Math.max(1, Math.ceil(count / Math.max(1, Math.floor(height / 24))));
    for (let layer = 0; layer <= count; layer += step) {
      const y = top + height * (1 - layer / count);
      brush.fillStyle = ink; brush.fillText(layer, left - 6, Math.min(Math.max(y, top + 5), top + height));
      brush.strokeStyle = line; brush.beginPath(); brush.moveTo(left, Math.round(y) + 0.5); brush.lineTo(right, Math.round(y) + 0.5); brush.stroke();
    }
  },
  // Bars of `chunks`, `{ start, end, layer }`; `x` is the position of a time.
  band(brush, chunks, { x, top, height, count }) {
    for (const { start, end, layer } of chunks) {
      const tall = Math.max(2, height * layer / count);
      brush.fillStyle = layers.shade(layer / count);
      brush.fillRect(x(start), top + height - tall, Math.max(1, x(end) - x(start) - 1), tall);
    }
  },
  // A canvas of the size that it has on the screen.
  brush(canvas) {
    const scale = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight, brush = canvas.getContext("2d");
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale); canvas.height = Math.round(height * scale);
    }
    brush.setTransform(scale, 0, 0, scale, 0, 0);
    brush.clearRect(0, 0, width, height);
    return { brush, width, height };
  },
};

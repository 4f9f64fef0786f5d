// Draws the bands of a report: `<canvas data-band='{ from, until, count, chunks: [[start, end, layer], …], parts: [[start, end, name], …] }'>`.
function drawBands() {
  layers.read();
  const style = getComputedStyle(document.documentElement), get = name => style.getPropertyValue(name).trim();
  for (const canvas of document.querySelectorAll("canvas[data-band]")) {
    const { from, until, count, chunks, parts } = JSON.parse(canvas.dataset.band), { brush, width, height } = layers.brush(canvas);
    const left = 26, top = parts.length ? 22 : 6, tall = height - top - 22, x = time => left + (width - left) * (time - from) / (until - from);
    for (const [start, end, name] of parts) {
      brush.fillStyle = get(`--${name}`) || get("--card"); brush.fillRect(x(start), 0, x(end) - x(start), top + tall);
      brush.fillStyle = get("--ink"); brush.font = "12px system-ui, sans-serif"; brush.textAlign = "left"; brush.textBaseline = "middle";
      if (brush.measureText(name).width + 8 < x(end) - x(start)) brush.fillText(name, x(start) + 4, 11);
    }
    layers.axis(brush, { left, right: width, top, height: tall, count, ink: get("--muted"), line: get("--grid") });
    layers.band(brush, chunks.map(([start, end, layer]) => ({ start, end, layer })), { x, top, height: tall, count });
    brush.fillStyle = get("--muted"); brush.textAlign = "center"; brush.textBaseline = "top";
    const step = [1, 2, 5, 10, 20, 30, 60].find(seconds => (width - left) * seconds / (until - from) > 48) || 120;
    for (let time = Math.ceil(from / step) * step; time <= until; time += step) brush.fillText(`${time} s`, Math.min(Math.max(x(time), left + 8), width - 16), top + tall + 6);
  }
}
addEventListener("resize", drawBands);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => requestAnimationFrame(drawBands));
drawBands();

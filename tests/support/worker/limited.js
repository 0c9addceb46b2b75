// Production throws where workerd does not: for the point after the last that an invocation may write, here the hundredth,
// and for a point that it does not take, here one with the index "refused".
export default function (env) {
  let written = 0;
  return {
    writeDataPoint(point) {
      if (point.indexes[0] === "refused") throw new TypeError("writeDataPoint(): refused");
      if (written === 100) {
        written = 0;
        throw new Error("Analytics Engine write limit exceeded.");
      }
      written += 1;
      env.dataset.writeDataPoint(point);
    },
  };
}

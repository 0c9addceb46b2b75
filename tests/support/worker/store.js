// Stands where Analytics Engine is: the runtime posts every data point here, and a test takes them away.
let points = [];

export default {
  async fetch(request) {
    if (new URL(request.url).pathname === "/take") {
      const taken = points.splice(0, 5000);
      return new Response(taken.join("\n"));
    }
    points.push(await request.text());
    return new Response(null, { status: 204 });
  },
};

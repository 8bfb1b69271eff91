// Holds resources of Prometheus Operator to its schemas: `node operator.mjs FOLDER-OF-PACKAGES < JSON-ARRAY`
import { readFileSync } from "node:fs";

for (const resource of JSON.parse(readFileSync(0, "utf8"))) {
  const path = `@kubernetes-models/prometheus-operator/${resource.apiVersion}/${resource.kind}.js`;
  const { [resource.kind]: Resource } = await import(`${process.argv[2]}/${path}`);
  new Resource(resource).validate();
  console.log("right:", resource.kind, resource.metadata.name);
}

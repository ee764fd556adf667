// Manifests of custom resources, a JSON list on standard input, judged by their projects' own schemas. Prints what is wrong.
// Run in a folder with the packages of .ci/run. External Secrets' v1 has the fields of v1beta1, whose schema this is.
import fs from "node:fs";

const PACKAGES = {
  ServiceMonitor: "prometheus-operator/monitoring.coreos.com/v1",
  PodMonitor: "prometheus-operator/monitoring.coreos.com/v1",
  PrometheusRule: "prometheus-operator/monitoring.coreos.com/v1",
  HTTPRoute: "gateway-api/gateway.networking.k8s.io/v1",
  ExternalSecret: "external-secrets/external-secrets.io/v1beta1",
};

for (const { apiVersion, kind, ...rest } of JSON.parse(fs.readFileSync(0))) {
  const types = await import(`@kubernetes-models/${PACKAGES[kind]}/${kind}.js`).catch(
    () => import(`@kubernetes-models/${PACKAGES[kind]}/${kind}`),
  );
  try {
    new (types[kind] ?? types.default[kind])(rest).validate();
  } catch (error) {
    console.log(kind, error.message);
  }
}

output "bootstrap" {
  description = "For Kafka clients, by region."
  value       = { for region in var.regions : region => join(",", [for name, node in local.nodes : node.kafka if node.region == region]) }
  depends_on  = [terraform_data.version]
}

output "config" {
  description = "For meridian's own commands, by region: meridian topic list --config FILE"
  value       = { for region in var.regions : region => terraform_data.client[region].output.file }
  depends_on  = [terraform_data.version]
}

output "client_properties" {
  description = "For Java clients, by region; its first lines say what the JVM has to be told."
  value       = { for region in var.regions : region => "${local.folder}/${region}/client.properties" }
}

output "ca" {
  description = "Certificate of the mesh's own authority."
  value       = "${local.folder}/ca.pem"
}

output "admin_token" {
  description = "File with a superuser's token, valid for a day from apply. A new one: meridian token issue --dev FOLDER --sub admin --ttl 24h"
  value       = "${local.folder}/admin.token"
}

output "homes" {
  description = "Each node's folder: node.toml, node.log, data."
  value       = { for name, node in local.nodes : name => node.home }
}
